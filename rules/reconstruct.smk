# The validation images through encoder, statistics and decoder, without a denoiser: what every row's images go through.
rule reconstruct:
    input:
        encoder=lambda wildcards: encoder_weights(wildcards.encoder),
        neurons=lambda wildcards: neurons(wildcards.encoder, wildcards.ttr),
        statistics="<results>/latents/{encoder}-{ttr}.safetensors",
        decoder="<results>/decoders/{encoder}.safetensors",
        images="<results>/data/prepared/validation/index.npz",
        spec=asked(
            "<results>/reconstruction/{encoder}-{ttr}/samples.json",
            lambda wildcards: CONFIG.reconstruct(wildcards.encoder, wildcards.ttr),
        ),
    output:
        samples="<results>/reconstruction/{encoder}-{ttr}/samples.npz",
        about="<results>/reconstruction/{encoder}-{ttr}/samples.json",
    log:
        "<logs>/reconstruct/{encoder}-{ttr}.log",
    benchmark:
        "<benchmarks>/reconstruct/{encoder}-{ttr}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of("sample")
    resources:
        **resources_of("sample"),
    params:
        # Finished shards are no output, so an interrupted job goes on where it stopped.
        shards=lambda wildcards, output: str(Path(output.samples).parent / "shards"),
    shell:
        "neurons={input.neurons:q}; "
        f"{launch('sample')}"
        " --state {params.shards:q}"
        f" dsr.commands.reconstruct{EXECUTION_OPTION} {option('neurons')}"
        ' --spec {input.spec:q} --encoder "$(dirname {input.encoder:q})" --statistics {input.statistics:q}'
        " --decoder {input.decoder:q} --images {input.images:q} --shards {params.shards:q}"
        " --output {output.samples:q} > {log:q} 2>&1"
