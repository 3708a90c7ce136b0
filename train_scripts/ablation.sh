#!/usr/bin/env bash
# Train the toy cat recipe for a short time, whole and with one part left out each, for the table in docs/training.md.
# About five minutes per run on one core; finished runs are not trained again.
# Usage: train_scripts/ablation.sh [VARIANT ...]
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=runs/ablation
DATA=data/toy/cats_128
KIMG=${KIMG:-3}
SCHEDULE="--kimg=$KIMG --guided_kimg=1 --patch_d_start_kimg=2 --kl_warmup_kimg=1 --tick=0.5 --snap=100"

# The recipe before patch training: published losses with small networks. One image takes it three times as long, so a
# third of the images take as much time.
PUBLISHED="--cbase=1024 --cmax=64 --encoder_width=0.0625 --sr_width=0.125 --plane_resolution=64 --depth_resolution=12
    --neural_rendering_resolution_initial=32 --batch=4 --mbstd-group=4 --workers=0 --gen_pose_cond=True --render_mask=True
    --dis_mask=True --gamma=1 --random_c_prob=0.5 --lambda_lpips=0 --lambda_l1=10 --blur_fade_kimg=8
    --kimg=${PUBLISHED_KIMG:-1} --tick=0.25 --snap=100"

# Options of a variant, appended to the recipe's; of options that are given twice, the last value counts.
NO_DEPTH="--lambda_depth=0 --lambda_empty=0 --guided_kimg=0"
options() {
    case "$1" in
        full) ;;
        no_style) echo --style_encoder=False ;;
        no_views) echo --lambda_novel_view=0 ;;
        no_depth) echo $NO_DEPTH ;;
        no_discriminator) echo --lambda_patch_d=0 ;;
        no_style_bias) echo --style_bias=False ;;
        no_moments) echo --lambda_moments=0 ;;
        single_views) echo --lambda_novel_view=0 $NO_DEPTH --density_reg=0.25 ;;
        *) echo "unknown variant: $1" >&2; exit 2 ;;
    esac
}

for name in ${*:-full no_style no_views no_depth no_discriminator no_style_bias no_moments single_views published}; do
    [ -f $OUT/$name/done ] && continue
    rm -rf "${OUT:?}/$name"
    mkdir -p $OUT/$name
    if [ "$name" = published ]; then
        python train.py --outdir=$OUT/$name --data=$DATA.zip --mask_data=${DATA}_label.zip --cfg=afhq \
            --semantic_channels=6 --gpus=1 $PUBLISHED
    else
        train_scripts/toy_seg.sh --outdir=$OUT/$name $SCHEDULE $(options "$name")
    fi
    touch $OUT/$name/done
done
