# One rule trains every row. Milestones form a chain, so early epochs are scored while later ones train.
rule train:
    input:
        unpack(row_inputs),
        images="<results>/data/prepared/train/index.npz",
        previous=ancient(previous_epoch),
    output:
        "<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
    log:
        "<logs>/train/{row}-{epoch}.log",
    benchmark:
        "<benchmarks>/train/{row}-{epoch}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: threads_of("train")
    resources:
        **resources_of("train", EXECUTION.nodes),
    params:
        # The training state is no output: Snakemake deletes outputs, and the log, before a job runs again.
        spec=train_spec,
        run=run_folder,
    message:
        "Training {wildcards.row} to epoch {wildcards.epoch}; progress: tail -f {log}"
    shell:
        "mkdir -p {params.run} && ln -srf {params.run}/train-{wildcards.epoch}.log {log} && "
        f"{launch('train', EXECUTION.nodes)}"
        " --state {params.run}"
        f" dsr.commands.train{TRAIN_OPTIONS}"
        " --spec {params.spec:q} --epoch {wildcards.epoch}"
        " --after {input.previous} --images {input.images} --encoder $(dirname {input.encoder})"
        " --neurons {input.neurons} --statistics {input.statistics} --run-dir {params.run} --output {output}"
        " >> {log} 2>&1"
