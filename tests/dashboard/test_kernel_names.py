"""Names of kernels as libraries give them, and what is left of them to read."""

from __future__ import annotations

import pytest

from dashboard.figures.kernel_names import fitted, readable


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl(at::TensorIt",
         "GeluCUDAKernelImpl"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::Half>, std::array<char*",
         "CUDAFunctor_add<Half>"),
        ("void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::direct_copy_k",
         "direct_copy_k…"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<bool, at::native::func_wrapper_t<bool, "
         "at::native::and_kernel_cuda(at::", "and_kernel_cuda"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float, false>(int, float, fl",
         "vectorized_layer_norm_kernel"),
        ("void (anonymous namespace)::softmax_warp_forward<float, float, float, 7, false, false>(float*, int",
         "softmax_warp_forward"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_f16_s161616gemm_f16_32x32_128x2_tn_align2>(cutlass_80_wm",
         "cutlass_80_wmma_tensorop_f16_s161616gemm_f16_32x32_128x2_tn_align2"),
        ("nvjet_sm90_hsh_256x128_64x4_1x2_h_bz_coopA_bias_TNT", "nvjet_sm90_hsh_256x128"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x64x8_stage3_warpsize2x2x1_ffma_aligna4_alignc4_execut",
         "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x64x8"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1_cga1x1x1_kernel0_0",
         "cudnn_sdpa_sm90_flash_fprop_wgmma_f16"),
        ("Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pageable -> Device)"),
        ("aten::addmm", "aten::addmm"),
        ("aten::<b>copy_", "aten::<b>copy_"),
        ("between kernels", "between kernels"),
    ],
)  # fmt: skip
def test_what_a_kernel_does_is_left_of_its_name(name: str, left: str) -> None:
    assert readable(name) == left


def test_the_middle_of_a_long_name_goes_first() -> None:
    assert fitted("gemm_tn_tilesize128x64x8", 24) == "gemm_tn_tilesize128x64x8"
    assert fitted("gemm_tn_tilesize128x64x8", 15) == "gemm_tn…28x64x8"
    assert len(fitted("x" * 80, 34)) == 34
