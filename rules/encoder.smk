# What the frozen encoders need besides their weights: register neurons and latent statistics.
rule discover_neurons:
    input:
        encoder="<results>/encoders/{encoder}/model.safetensors",
        # Active while others are discovered.
        first=lambda wildcards: neurons(wildcards.encoder, "single") if wildcards.ttr == "recursive" else [],
        spec=asked("<results>/encoders/{encoder}/neurons-{ttr}.json", CONFIG.discover),
        images="<results>/data/prepared/train/index.npz",
    output:
        "<results>/encoders/{encoder}/neurons-{ttr}.json",
    log:
        "<logs>/discover/{encoder}-{ttr}.log",
    wildcard_constraints:
        ttr="single|recursive",
    conda:
        "../envs/torch.yaml"
    threads: CONFIG.request("discover_neurons").cpus
    resources:
        **resources_of("discover_neurons"),
    params:
        files=named_files,
    shell:
        "python -m dsr.commands.discover {params.files:q} --output {output:q} > {log:q} 2>&1"


# Where the release has no list (SigLIP2-So400M with a single pass), neurons are discovered.
ruleorder: released_neurons > discover_neurons


rule released_neurons:
    input:
        f"{workflow.basedir}/src/dsr/encoder/neurons/{{encoder}}-{{ttr}}.json",
    output:
        "<results>/encoders/{encoder}/neurons-{ttr}.json",
    log:
        "<logs>/released-neurons/{encoder}-{ttr}.log",
    wildcard_constraints:
        encoder=one_of(name for name, entry in CONFIG.encoders.items() if entry.neurons == "released"),
    localrule: True
    conda:
        "../envs/torch.yaml"
    shell:
        "cp {input:q} {output:q} 2> {log:q}"


rule statistics:
    input:
        encoder="<results>/encoders/{encoder}/model.safetensors",
        neurons=lambda wildcards: neurons(wildcards.encoder, wildcards.ttr),
        images="<results>/data/prepared/train/index.npz",
        spec=asked("<results>/latents/{encoder}-{ttr}.safetensors", CONFIG.statistics),
    output:
        "<results>/latents/{encoder}-{ttr}.safetensors",
    log:
        "<logs>/statistics/{encoder}-{ttr}.log",
    benchmark:
        "<benchmarks>/statistics/{encoder}-{ttr}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: CONFIG.request("statistics").cpus
    resources:
        **resources_of("statistics"),
    params:
        files=named_files,
    shell:
        # Nothing is kept there but the number of starts: when it is stopped, the job is requeued and begins anew.
        f"{launch('statistics')} --state {shlex.quote(f'{CONFIG.results}/latents/.')}{{wildcards.encoder}}-{{wildcards.ttr}}"
        f" dsr.commands.statistics{EXECUTION_OPTION} {{params.files:q}} --output {{output:q}} > {{log:q}} 2>&1"
