# Rows whose weights somebody else trained: fetched, or your own copy, and never trained here.
rule fetch_weights:
    output:
        "<results>/rows/{row}/epoch-{epoch}/ema.safetensors",
    log:
        "<logs>/fetch/weights-{row}-{epoch}.log",
    wildcard_constraints:
        # At the epoch after which they were taken, and at no other.
        row="|".join(rf"{re.escape(row)}(?=/epoch-{final_epoch(row)}/)" for row in FETCHED) or "(?!)",
    conda:
        "../envs/torch.yaml"
    params:
        artifact=lambda wildcards: CONFIG.rows[wildcards.row].weights.artifact,
        local=lambda wildcards: local_copy(CONFIG.rows[wildcards.row].weights.artifact),
        spec=lambda wildcards: spec_json(CONFIG.model(wildcards.row)),
        place=lambda wildcards, output: output[0],
    shell:
        f"{FETCH} --artifact"
        " {params.artifact:q} --spec {params.spec:q} {params.local:q} --output {params.place:q} > {log:q} 2>&1"


# What the training of a row begins with, where that is not drawn: of other classes and registers, maybe.
use rule fetch_weights as fetch_start with:
    output:
        "<results>/rows/{row}/start.safetensors",
    log:
        "<logs>/fetch/start-{row}.log",
    wildcard_constraints:
        row=one_of(STARTED),
    params:
        spec=lambda wildcards: spec_json(CONFIG.start(wildcards.row).model(CONFIG.model(wildcards.row))),


# What can be reproduced without training anything.
rule reference_weights:
    input:
        reference_targets,
    localrule: True
