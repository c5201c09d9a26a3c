"""Class labels of a set of sampled images: every class equally often, in a random order."""

import torch


def balanced_labels(classes: int, images: int, seed: int, total: int | None = None) -> torch.Tensor:
    """Return the label of every image, int64 (images,): a permutation with images // classes of every class.

    Image i has label i of this pool, however many processes sample. The order is the release's for one process.
    ``total`` > ``images`` appends uniformly random labels up to that count, as the release does to fill its last
    batch.

    Raises:
        ValueError: if ``images`` is not a multiple of ``classes``.
    """
    if images % classes:
        raise ValueError(f"{images} images cannot be spread evenly over {classes} classes")
    generator = torch.Generator().manual_seed(seed)
    pool = torch.arange(classes).repeat_interleave(images // classes)
    pool = pool[torch.randperm(images, generator=generator)]
    tail = torch.randint(0, classes, ((total or images) - images,), generator=generator)
    return torch.cat([pool, tail])
