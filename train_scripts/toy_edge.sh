#!/usr/bin/env bash
# Train a small model of toy cars from edges, on a laptop or one GPU; creates the data set first.
# Options on the command line are appended: train_scripts/toy_edge.sh --kimg=10
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=data/toy/cars_128
[ -f ${DATA}_depth.zip ] || python dataset_tool.py toy --kind cars --outdir data/toy --number 4500 --views 3 --depth
source train_scripts/toy_options.sh
# Toy cars fill less of the published box and rays than real ones.
exec python train.py --outdir=runs --data=$DATA.zip --mask_data=${DATA}_label.zip --depth_data=${DATA}_depth.zip \
    --cfg=shapenet --data_type=edge --edge_weight=4 --lambda_l1=4 --gpus=1 \
    --box_warp=1 --ray_start=1.2 --ray_end=2.2 $RECIPE $SIZE "$@"
