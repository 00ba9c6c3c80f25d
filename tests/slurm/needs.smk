# Two jobs for tests/runs/test_slurm.py: one needs more memory than its first attempt asks for, the others tell their GPU.


rule all:
    default_target: True
    input:
        "filled.txt",
        "gpu-0.txt",
        "gpu-1.txt",
    localrule: True


rule fill:
    output:
        "filled.txt",
    log:
        "fill.log",
    resources:
        mem_mb=lambda wildcards, attempt: 500 * 2 ** (attempt - 1),
    shell:
        """
        echo "attempt {resources.mem_mb}" >> {log}
        python -c "import time; memory = bytearray(600 << 20); time.sleep(15)"
        echo {resources.mem_mb} > {output}
        """


rule gpu:
    output:
        "gpu-{gpus}.txt",
    resources:
        gpu=lambda wildcards: int(wildcards.gpus),
    shell:
        "echo ${{CUDA_VISIBLE_DEVICES-unset}} > {output}"
