# Images of a row, from noise: image i depends on the sampling seed and i alone.
rule sample:
    input:
        unpack(sample_inputs),
        spec=asked("<results>/rows/{row}/epoch-{epoch}/{set}/samples.json", sample_spec),
    output:
        samples="<results>/rows/{row}/epoch-{epoch}/{set}/samples.npz",
        about="<results>/rows/{row}/epoch-{epoch}/{set}/samples.json",
    log:
        "<logs>/sample/{row}-{epoch}-{set}.log",
    benchmark:
        "<benchmarks>/sample/{row}-{epoch}-{set}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: CONFIG.request("sample").cpus
    resources:
        **resources_of("sample"),
    params:
        # Finished shards are no output, so an interrupted job goes on where it stopped.
        shards=lambda wildcards, output: str(Path(output.samples).parent / "shards"),
        # Params that take `input` follow from other things, and rerun nothing.
        module=lambda wildcards, input: "dsr.commands.sample",
        board=board_option,
        files=named_files,
    shell:
        f"{launch('sample')}"
        " --state {params.shards:q} {params.module}"
        f"{EXECUTION_OPTION}"
        " {params.files:q} --shards {params.shards:q} {params.board:q} --output {output.samples:q} > {log:q} 2>&1"


# Of a few images with every guidance that the sweep tries, the one with the lowest FID is chosen.
rule choose_guidance:
    input:
        expand("<results>/rows/{{row}}/epoch-{{epoch}}/sweep/{candidate}/metrics.json", candidate=CANDIDATES),
    output:
        # The chosen one alone, as sampling reads it, and all that were tried.
        chosen="<results>/rows/{row}/epoch-{epoch}/guidance.json",
        tried="<results>/rows/{row}/epoch-{epoch}/sweep.json",
    log:
        "<logs>/sample/{row}-{epoch}-choose.log",
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=SWEEP.model_dump_json() if SWEEP else "",
    shell:
        "python -m dsr.commands.choose --sweep {params.spec:q} --metrics {input:q}"
        " --chosen {output.chosen:q} --others {output.tried:q} > {log:q} 2>&1"


# The validation images through encoder, statistics and decoder, without a denoiser: what every row's images go through.
use rule sample as reconstruct with:
    input:
        unpack(latent_inputs),
        decoder="<results>/decoders/{encoder}.safetensors",
        images="<results>/data/prepared/validation/index.npz",
        spec=asked("<results>/reconstruction/{encoder}-{ttr}/samples.json", CONFIG.reconstruct),
    output:
        samples="<results>/reconstruction/{encoder}-{ttr}/samples.npz",
        about="<results>/reconstruction/{encoder}-{ttr}/samples.json",
    log:
        "<logs>/reconstruct/{encoder}-{ttr}.log",
    benchmark:
        "<benchmarks>/reconstruct/{encoder}-{ttr}.tsv"
    params:
        module=lambda wildcards, input: "dsr.commands.reconstruct",
        board=lambda wildcards, input: [],
