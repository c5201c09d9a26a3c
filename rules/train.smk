# One rule trains every row. Milestones form a chain, so early epochs are scored while later ones train.
rule train:
    input:
        unpack(latent_inputs),
        # Newer than weights of another specification, and not told to the trainer, which gets that of the whole run.
        asked("<results>/rows/{row}/epoch-{epoch}/ema.safetensors", CONFIG.weights),
        images="<results>/data/prepared/train/index.npz",
        after=ancient(previous_epoch),
        start=lambda wildcards: "<results>/rows/{row}/start.safetensors" if wildcards.row in STARTED else [],
    output:
        "<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
    log:
        "<logs>/train/{row}-{epoch}.log",
    benchmark:
        "<benchmarks>/train/{row}-{epoch}.tsv"
    wildcard_constraints:
        row=one_of(TRAINED),
    # It stops its first start, after which a job of a cluster is requeued; elsewhere Snakemake tries again.
    retries: 1 if REHEARSAL else None
    conda:
        "../envs/torch.yaml"
    threads: CONFIG.request("train").cpus
    resources:
        **resources_of("train", EXECUTION.nodes),
    params:
        # The training state is no output: Snakemake deletes outputs, and the log, before a job runs again.
        spec=lambda wildcards: spec_json(CONFIG.train(wildcards.row)),
        run=lambda wildcards: state_folder(wildcards.row),
        files=named_files,
    message:
        "Training {wildcards.row} to epoch {wildcards.epoch}; progress: tail -f {log}"
    shell:
        "mkdir -p {params.run:q} && ln -srf {params.run:q}/train-{wildcards.epoch}.log {log:q} && "
        f"{launch('train', EXECUTION.nodes)}"
        " --state {params.run:q}"
        f"{' --preempt-once' * REHEARSAL}"
        f" dsr.commands.train{EXECUTION_OPTION}"
        " --spec {params.spec:q} --epoch {wildcards.epoch} {params.files:q}"
        " --run-dir {params.run:q} --output {output:q} >> {log:q} 2>&1"


# The recipe's other moving averages. The trainer keeps all of them beside its state; the first is what `train` gives.
rule average:
    input:
        "<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
        asked=asked("<results>/rows/{row}/epoch-{epoch}/ema-{decay}.safetensors", CONFIG.weights),
    output:
        "<results>/rows/{row}/epoch-{epoch}/ema-{decay}.safetensors",
    log:
        "<logs>/train/{row}-{epoch}-ema-{decay}.log",
    wildcard_constraints:
        row=one_of(TRAINED),
    localrule: True
    conda:
        "../envs/torch.yaml"
    params:
        spec=lambda wildcards: spec_json(CONFIG.train(wildcards.row)),
        run=lambda wildcards: state_folder(wildcards.row),
    shell:
        "python -m dsr.commands.average --spec {params.spec:q} --epoch {wildcards.epoch} --decay {wildcards.decay}"
        " --run-dir {params.run:q} --output {output:q} > {log:q} 2>&1"
