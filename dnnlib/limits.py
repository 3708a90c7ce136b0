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
