"""Networks: StyleGAN2 layers, label-map encoder, tri-plane generator, super-resolution, discriminators, augmentation.

Ray casting and compositing, which have no parameters, are in `training.volumetric_rendering`; losses, data and
weight files are elsewhere in `training`. Shapes: N batch, M rays, T samples on a ray, F features, S label channels,
H W pixels, R output and r raw rendering resolution, P plane resolution, K points (docs/conventions.md).
"""
