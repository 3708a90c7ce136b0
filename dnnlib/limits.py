"""Limits on what is read from files of other people: far above any real file, and low enough to bound time and memory.

A file within these limits is read or refused within 30 seconds and 2 GB, apart from what its own size takes. A file
beyond them is damaged or hostile, and is refused in one line. Comments give the largest value of a real file.
"""

# --------------------------------------------------------------------------- data sets and images

# Declared size of a file in a data set; the poses of 70,000 images are 35 MB.
MAX_MEMBER_BYTES = 2**28

# Estimated memory of parsed JSON, see `dnnlib.json_files.parse_json`; 200 MB for 70,000 poses.
MAX_JSON_MEMORY = 1_500_000_000

# Pixels of a photo, and of a label map or drawing, which takes more memory per pixel; 200 and 35 million.
MAX_PHOTO_PIXELS = 2**28
MAX_LABEL_PIXELS = 2**26

# Pixels times scans of a progressive JPEG: a decoder visits all pixels once in each scan; 200 million pixels in 10.
# Segments of a JPEG: scans, tables, metadata; about 100.
MAX_JPEG_PIXEL_SCANS = 2**32
MAX_JPEG_SEGMENTS = 100_000

# Bytes of one text or color profile in a PNG after decompression; a few MB, from image editors.
MAX_PNG_TEXT_BYTES = 2**26

# --------------------------------------------------------------------------- weights files

# Bytes of a file; 0.9 GB with the discriminators.
MAX_WEIGHTS_BYTES = 2**32

# Bytes of a .safetensors file's header, and of a zip archive's directory; 0.5 MB.
MAX_HEADER_BYTES = 2**24

# Steps of reading a pickle; 0.3 million.
MAX_PICKLE_STEPS = 3_000_000

# Networks of a file, and modules and tensors of a network; 6, and 900.
MAX_NETWORKS = 32
MAX_TENSORS = 10_000

# Nested modules, and characters of a tensor's name; 6 and 60.
MAX_MODULE_DEPTH = 32
MAX_NAME = 500

# Plain data, such as constructor arguments: nesting levels, values, and magnitude of a number; 3, 50 and 32,768.
MAX_DATA_DEPTH = 32
MAX_DATA_VALUES = 10_000
MAX_NUMBER = 2**24

# Pixels of the side of images and planes, and samples of a raw image, on all its rays; 512 and 1.6 million.
MAX_RESOLUTION = 1024
MAX_RENDER_SAMPLES = 2**25
