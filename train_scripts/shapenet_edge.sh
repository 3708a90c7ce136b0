#!/usr/bin/env bash
# Train edge2car on 8 GPUs with the published options, from EG3D's weights for cars. The published code ignores
# --geometry_layer=9, this code does not; --geometry_layer=7 gives networks of the shape of the published weights.
# Options on the command line are appended: train_scripts/shapenet_edge.sh --gpus=1 --batch-gpu=4
set -euo pipefail
cd "$(dirname "$0")/.."
exec python train.py --outdir=runs --cfg=shapenet \
    --data=data/cars_128.zip --mask_data=data/shapenet_car_contour.zip --data_type=edge --geometry_layer=9 \
    --render_mask=True --dis_mask=True --resume=checkpoints/shapenetcars128-64.pkl --gpus=8 --batch=32 --mbstd-group=4 \
    --gamma=0.3 --random_c_prob=0.5 --edge_weight=10 \
    --lambda_d_semantic=0.1 --lambda_lpips=1 --lambda_cross_view=1e-6 "$@"
