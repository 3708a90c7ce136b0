"""Values that options take, and their defaults, where modules below and command lines share them.

Without PyTorch, so that command lines print their help and refuse wrong options at once. Tables of functions with these
names as keys are in the modules that use them.
"""

# Names of the published configurations, keys of `training.networks.configs.CONFIGS`.
CONFIG_NAMES = ("seg2cat", "seg2face", "edge2car", "edge2cat")
# Channels of the published generators, see `training.networks.configs.GeneratorOptions`.
CHANNEL_BASE = 32768
CHANNEL_MAX = 512
# Keys of `camera_utils.CAMERAS`: presets of cameras, by application or by data set.
CAMERA_NAMES = ("seg2cat", "edge2cat", "afhq", "seg2face", "celeba", "ffhq", "edge2car", "shapenet")
# Content of label maps: class ids or drawings.
DATA_TYPES = ("seg", "edge")
# Keys of `dataset_preprocessing.toy.write.KINDS`.
TOY_KINDS = ("cats", "cars")
# Number types of convolutions.
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
# How label maps become square that are not.
FITS = ("pad", "crop")
# Seeds are 32-bit numbers.
MAX_SEED = 2**32 - 1

# Camera paths, frames of a video as published, and what videos show.
PATH_NAMES = ("orbit", "turn")
PATH_FRAMES = 120
FPS = 60
SHOW_NAMES = ("color", "label", "side_by_side", "depth")
VIDEO_FORMATS = ("gif", "mp4")

# Meshes: colors of the vertices, file formats, and the raw density of the surface as published.
VERTEX_COLORS = ("label", "shown_label", "image")
MESH_FORMATS = ("ply", "obj", "glb")
PUBLISHED_THRESHOLD = 50.0
