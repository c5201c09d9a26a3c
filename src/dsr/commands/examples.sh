# A command line of every command that works after `make demo`, from the folder of the Snakefile; `--help` shows it.

PYTHONPATH=src python -m dsr.commands.average --spec results/demo/rows/dit-siglip2b/run-*/spec.json --epoch 16 \
  --decay 0.99 --run-dir results/demo/rows/dit-siglip2b/run-* --output tried/ema.safetensors

PYTHONPATH=src python -m dsr.commands.choose \
  --sweep '{"rows": ["dit-siglip2b-dsr"], "images": 100, "scales": [1.5], "intervals": [[0.0, 1.0], [0.0, 0.9]]}' \
  --metrics results/demo/rows/dit-siglip2b-dsr/epoch-16/sweep/w1.5-t0-{1,0.9}/metrics.json \
  --chosen tried/guidance.json --others tried/sweep.json

PYTHONPATH=src python -m dsr.commands.demo images --output tried/images \
  --spec '{"source": "made", "classes": 10, "train_images": 100, "validation_images": 20, "image_size": 64, "shards": 1}'

PYTHONPATH=src python -m dsr.commands.demo_graph --images results/demo/data/prepared/train/index.npz \
  --output tried/graph.pb --steps 10

PYTHONPATH=src python -m dsr.commands.discover \
  --spec results/demo/specs/encoders/siglip2-so400m/neurons-single.json.json \
  --encoder results/demo/encoders/siglip2-so400m --images results/demo/data/prepared/train/index.npz \
  --output tried/neurons.json

snakemake --profile profiles/demo --cores all results/demo/models/dit-siglip2b-dsr-16/config.json && \
  PYTHONPATH=src python -m dsr.commands.draw --model results/demo/models/dit-siglip2b-dsr-16 --classes 3 7 \
  --names results/demo/data/prepared/train/index.npz --output tried/grid.png

PYTHONPATH=src python -m dsr.commands.evaluate --graph results/demo/evaluator/graph.pb \
  --samples results/demo/rows/dit-siglip2b/epoch-16/unguided-seed0/samples.npz \
  --reference results/demo/evaluator/reference-validation.npz --output tried/scores.json

PYTHONPATH=src python -m dsr.commands.fetch --artifact siglip2-b --output tried/siglip2-b --lock tried/artifacts.lock \
  --spec '{"encoder": {"family": "siglip2", "hub": "google/siglip2-base-patch16-256", "revision": "main",
  "input_size": 256, "patch_size": 16, "width": 768, "neurons": "released", "statistics": "released"},
  "ttr_options": null, "image_size": 256}'

PYTHONPATH=src python -m dsr.commands.figure --kind samples --config results/demo/specs/config.json --entries '[{"row":
  "dit-siglip2b", "epoch": 16, "samples": "results/demo/rows/dit-siglip2b/epoch-16/unguided-seed0/samples.npz"}]' \
  --names results/demo/data/prepared/validation/index.npz --png tried/samples.png --svg tried/samples.svg

PYTHONPATH=src python -m dsr.commands.launch --processes 2 dsr.commands.statistics \
  --spec results/demo/specs/latents/siglip2-b-none.safetensors.json --encoder results/demo/encoders/siglip2-b \
  --images results/demo/data/prepared/train/index.npz --execution '{"processes": 2}' --output tried/statistics.safetensors

PYTHONPATH=src python -m dsr.commands.maps encoder --spec results/demo/specs/maps/encoders/siglip2-b-none.npz.json \
  --encoder results/demo/encoders/siglip2-b --decoder results/demo/decoders/siglip2-b.safetensors \
  --images results/demo/data/prepared/validation/index.npz --output tried/maps.npz

PYTHONPATH=src python -m dsr.commands.own_images --train results/demo/data/raw/train --output tried/digits.yaml

PYTHONPATH=src python -m dsr.commands.plan --spec results/demo/specs/config.json --output tried/plan.md

PYTHONPATH=src python -m dsr.commands.prepare shard --source results/demo/data/raw/validation --size 32 --images 360 \
  --classes 10 --shard 0 --shards 2 --output tried/shard-00000.zip

PYTHONPATH=src python -m dsr.commands.reconstruct --execution '{}' \
  --spec results/demo/specs/reconstruction/siglip2-b-none/samples.json.json \
  --encoder results/demo/encoders/siglip2-b --images results/demo/data/prepared/validation/index.npz \
  --statistics results/demo/latents/siglip2-b-none.safetensors --decoder results/demo/decoders/siglip2-b.safetensors \
  --shards tried/shards --output tried/reconstructions.npz

PYTHONPATH=src python -m dsr.commands.report table --config results/demo/specs/config.json --entries '[{"row":
  "dit-siglip2b", "epoch": 16, "metrics": "results/demo/rows/dit-siglip2b/epoch-16/unguided-seed0/metrics.json"}]' \
  --markdown-file tried/table.md --csv tried/table.csv --html tried/table.html --latex-file tried/table.tex

PYTHONPATH=src python -m dsr.commands.sample --execution '{}' \
  --spec results/demo/specs/rows/dit-siglip2b/epoch-16/unguided-seed0/samples.json.json \
  --weights results/demo/rows/dit-siglip2b/epoch-16/ema.safetensors \
  --statistics results/demo/latents/siglip2-b-none.safetensors --decoder results/demo/decoders/siglip2-b.safetensors \
  --shards tried/shards --output tried/samples.npz

PYTHONPATH=src python -m dsr.commands.statistics --spec results/demo/specs/latents/siglip2-b-none.safetensors.json \
  --encoder results/demo/encoders/siglip2-b --images results/demo/data/prepared/train/index.npz --execution '{}' \
  --output tried/statistics.safetensors

PYTHONPATH=src python -m dsr.commands.status results/demo/status.json

PYTHONPATH=src python -m dsr.commands.train --spec results/demo/rows/dit-siglip2b/run-*/spec.json --epoch 1 \
  --encoder results/demo/encoders/siglip2-b --statistics results/demo/latents/siglip2-b-none.safetensors \
  --images results/demo/data/prepared/train/index.npz --execution '{}' --run-dir tried/run --output tried/epoch-1.safetensors
