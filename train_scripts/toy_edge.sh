#!/usr/bin/env bash
# Train a small model of toy cars from edges on a laptop or one GPU, without LPIPS; creates the data set first.
# Options on the command line are appended: train_scripts/toy_edge.sh --kimg=10
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=data/toy
[ -f $DATA/cars_128_label.zip ] || python dataset_tool.py toy --kind cars --outdir $DATA --number 2000
# Network widths and number of images for a GPU; smaller ones for a CPU, where 20 kimg take a few hours.
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    SIZE="--cbase=16384 --cmax=256 --encoder_width=0.25 --neural_rendering_resolution_initial=64 --batch=16 --mbstd-group=4 --workers=3 --kimg=200"
else
    SIZE="--cbase=1024 --cmax=64 --encoder_width=0.0625 --sr_width=0.125 --plane_resolution=64 --depth_resolution=16
        --neural_rendering_resolution_initial=32 --batch=4 --mbstd-group=4 --workers=0 --kimg=20"
fi
exec python train.py --outdir=runs --data=$DATA/cars_128.zip --mask_data=$DATA/cars_128_label.zip \
    --cfg=shapenet --data_type=edge --edge_weight=10 --render_mask=True --dis_mask=True --gpus=1 $SIZE --gamma=1 \
    --random_c_prob=0.5 --lambda_lpips=0 --lambda_l1=10 --blur_fade_kimg=8 --tick=0.25 --snap=4 "$@"
