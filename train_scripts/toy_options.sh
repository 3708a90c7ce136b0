# Sourced by toy_seg.sh and toy_edge.sh: options that both share, for a GPU or a CPU.

# Patches of any view of an object, z from the photo, and a late discriminator of patches; see docs/training.md. LPIPS
# is left out, since its weights need a download.
RECIPE="--reconstruction=patches --style_encoder=True --style_bias=True --z_dim=16 --plane_axes=corrected --geometry_layer=5
    --map_lr_mul=1 --encoder_resolution=64 --render_mask=True --mirror=True --mirror_pose=True --density_reg=0
    --lambda_lpips=0 --lambda_color=1 --lambda_depth=6 --lambda_empty=2 --lambda_patch_d=0.1 --gamma=0.5
    --glr=0.003 --beta1=0.9 --lr_schedule=cosine --warmup_kimg=0.4 --clip_grad=10 --sr_num_fp16_res=0"

# Sizes and length. On one core of a laptop, 70 kimg take two to three hours; 26 give recognizable cats in one.
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    SIZE="--cbase=16384 --cmax=256 --encoder_width=0.25 --plane_resolution=128 --depth_resolution=24 --batch=16 --workers=3
        --kimg=400 --ema_kimg=5 --guided_kimg=100 --patch_d_start_kimg=200 --tick=4 --snap=5"
else
    SIZE="--cbase=2048 --cmax=128 --encoder_width=0.0625 --sr_width=0.375 --plane_resolution=64 --depth_resolution=10
        --batch=4 --workers=0 --kimg=70 --ema_kimg=1 --guided_kimg=14 --patch_d_start_kimg=46 --tick=0.5 --snap=4 --grid=4x2"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # small tensors: one thread is nearly as fast as two
fi
