"""Values that options of metrics take. Without PyTorch, so that command lines print their help at once."""

# Metrics that can be asked for, in messages.
EXAMPLES = (
    "fid, kid, pr, is, miou, acc, ap, sg, diversity, nearest, stroke, fvv, nvs, chamfer; with a number: fid50k_full, "
    "kid5k, pr50k3"
)
# Features of more samples would not fit into memory.
MAX_SAMPLES = 10_000_000

# Source of z.
SEEDS = "seeds"
PHOTO = "photo"
STYLES = (SEEDS, PHOTO)

# Networks of metrics: Inception, and what else can be given.
INCEPTION = "inception"
SOURCES = "a TorchScript file, an .onnx file, an edge network's .h5 or MODULE:NAME"
# Distances between images.
DISTANCES = ("lpips", "l1", "features")
