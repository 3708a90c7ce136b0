#!/usr/bin/env bash
# Train seg2face on 8 GPUs with the published options, from EG3D's weights for faces.
# Options on the command line are appended: train_scripts/celeba_seg.sh --gpus=4 --batch-gpu=2
set -euo pipefail
cd "$(dirname "$0")/.."
exec python train.py --outdir=runs --cfg=celeba \
    --data=data/celebamask_train.zip --mask_data=data/celebamask_train_label.zip --data_type=seg --semantic_channels=19 \
    --seg_weight=2 --render_mask=True --dis_mask=True --neural_rendering_resolution_initial=128 \
    --resume=checkpoints/ffhqrebalanced512-128.pkl --gpus=8 --batch=8 --mbstd-group=1 --gamma=1 --gen_pose_cond=True \
    --random_c_prob=0.5 --lambda_d_semantic=0.1 --lambda_lpips=1 --lambda_cross_view=1e-4 --only_raw_recons=True "$@"
