#!/usr/bin/env bash
# Train a small model of toy cats from label maps, on a laptop or one GPU; creates the data set first.
# Options on the command line are appended: train_scripts/toy_seg.sh --kimg=10
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=data/toy/cats_128
[ -f ${DATA}_depth.zip ] ||
    python dataset_tool.py toy --kind cats --outdir data/toy --number 6000 --views 3 --wide-views 1 --depth
source train_scripts/toy_options.sh
exec python train.py --outdir=runs --data=$DATA.zip --mask_data=${DATA}_label.zip --depth_data=${DATA}_depth.zip \
    --cfg=afhq --data_type=seg --semantic_channels=6 --seg_weight=auto --lambda_l1=1.5 --gpus=1 $RECIPE $SIZE "$@"
