# SPDX-License-Identifier: Apache-2.0
# --with-cuda[=DIR]: no module holds CUDA code yet; the switch is kept out until
# one does, and the report says so.
AC_DEFUN([KV_WITH_CUDA], [
	kv_cuda_report="no (no CUDA modules in this release)"
])
