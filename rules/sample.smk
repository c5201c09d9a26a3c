# Images of a row, from noise: image i depends on the sampling seed and i alone.
rule sample:
    input:
        weights="<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        statistics=lambda wildcards: row_inputs(wildcards)["statistics"],
        decoder=lambda wildcards: f"<results>/decoders/{CONFIG.rows[wildcards.row].encoder}.safetensors",
    output:
        samples="<results>/rows/{row}/epoch-{epoch}/{guidance}-seed{seed}/samples.npz",
        about="<results>/rows/{row}/epoch-{epoch}/{guidance}-seed{seed}/samples.json",
    log:
        "<logs>/sample/{row}-{epoch}-{guidance}-seed{seed}.log",
    benchmark:
        "<benchmarks>/sample/{row}-{epoch}-{guidance}-seed{seed}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of("sample")
    resources:
        **resources_of("sample"),
    params:
        # Finished shards are no output, so an interrupted job goes on where it stopped.
        spec=sample_spec,
        shards=lambda wildcards, output: str(Path(output.samples).parent / "shards"),
    shell:
        f"{launch('sample')}"
        " --state {params.shards}"
        f" dsr.commands.sample{SAMPLE_OPTIONS}"
        " --spec {params.spec:q} --weights {input.weights}"
        " --statistics {input.statistics} --decoder {input.decoder} --shards {params.shards}"
        " --output {output.samples} > {log} 2>&1"
