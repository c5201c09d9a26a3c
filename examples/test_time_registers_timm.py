"""Find the register neurons of a timm ViT and give it test-time registers, without training and without our encoder.

Run: python examples/test_time_registers_timm.py

The model here is tiny and random, and one of its neurons is rewired to make outlier tokens, so that the result can be
checked. For a real one: `timm.create_model("vit_large_patch14_clip_224.openai", pretrained=True)` and your images.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dsr.config.encoders import Discovery, TestTimeRegisters
from dsr.encoder.blocks import Mlp, Trace
from dsr.encoder.ttr import InterventionMlp, NeuronScores, by_layer, rank

PLANTED = (2, 11)
"""(layer, neuron) that makes outliers in the demonstration."""


def trace(vit: VisionTransformer, images: Tensor) -> Trace:
    """Run timm's own forward; keep the residual stream after every block and the activations of every MLP."""
    record = Trace([], [])
    hooks = [vit.norm_pre.register_forward_hook(lambda _, __, output: record.hidden_states.append(output))]
    for block in vit.blocks:
        hooks.append(block.register_forward_hook(lambda _, __, output: record.hidden_states.append(output)))
        hooks.append(block.mlp.fc2.register_forward_pre_hook(lambda _, inputs: record.activations.append(inputs[0])))
    vit.forward_features(images)
    for hook in hooks:
        hook.remove()
    return record


def discover(vit: VisionTransformer, images: Tensor, *, norm_threshold: float, top_k: int) -> dict[int, list[int]]:
    """Return layer -> register neurons; call ``scores.add`` once a batch where images do not fit in memory."""
    scores = NeuronScores(Discovery(images=len(images), norm_threshold=norm_threshold, top_k=top_k))
    scores.add(trace(vit, images), prefix=vit.num_prefix_tokens)
    ranked = rank(scores.mean(), top_k)
    for layer, neuron, score in ranked:
        print(f"layer {layer}, neuron {neuron}: mean activation {score:.1f} on outlier tokens")
    return {layer: list(found) for layer, found in by_layer([entry[:2] for entry in ranked]).items()}


def add_test_time_registers(vit: VisionTransformer, neurons: dict[int, list[int]], options: TestTimeRegisters) -> None:
    """Append registers after the embeddings, let the neurons write to them, drop them before the final norm."""
    vit.norm_pre = nn.Sequential(vit.norm_pre, nn.ZeroPad2d((0, 0, 0, options.registers)))
    for layer, indices in neurons.items():
        mlp = vit.blocks[layer].mlp
        vit.blocks[layer].mlp = InterventionMlp(Mlp(mlp.fc1, mlp.act, mlp.fc2), indices, options)
    vit.norm = nn.Sequential(nn.ZeroPad2d((0, 0, 0, -options.registers)), vit.norm)


def token_norms(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Norms of image tokens, then of registers if there are any, before the final norm."""
    return trace(vit, images).hidden_states[-1][:, vit.num_prefix_tokens :].norm(dim=-1)


def plant(vit: VisionTransformer) -> None:
    """Rewire one neuron, so that it fires strongly on some patches and writes a large vector."""
    layer, neuron = PLANTED
    mlp, direction = vit.blocks[layer].mlp, torch.randn(vit.embed_dim)
    mlp.fc1.weight[neuron] = 40 * direction / direction.norm()
    mlp.fc1.bias[neuron] = -60
    mlp.fc2.weight[:, neuron] = torch.randn(vit.embed_dim) / vit.embed_dim**0.5


@torch.no_grad()
def main() -> None:
    """Discover the planted neuron, add a register, and show what becomes of the outliers."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=5, num_heads=4, num_classes=0).eval()
    plant(vit)
    images = torch.randn(8, 3, 64, 64)

    norms, features = token_norms(vit, images), vit.forward_features(images)
    threshold = 3 * norms.median().item()
    print(f"before: {(norms > threshold).sum()} of {norms.numel()} patches have norms above {threshold:.1f}")
    neurons = discover(vit, images, norm_threshold=threshold, top_k=1)
    # first_token: kept leaves CLS, the first token, as it is.
    add_test_time_registers(vit, neurons, TestTimeRegisters(first_token="kept"))
    patches, register = token_norms(vit, images).tensor_split([-1], dim=1)
    print(f"after: {(patches > threshold).sum()} of {patches.numel()}; the register has norm {register.mean():.1f}")
    after = vit.forward_features(images)
    print(f"features: {tuple(after.shape)}, as before: {after.shape == features.shape}")


if __name__ == "__main__":
    main()
