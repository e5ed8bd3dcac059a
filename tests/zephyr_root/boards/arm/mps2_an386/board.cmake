set(QEMU_FLAGS_${ARCH} -machine mps2-an386 -nographic)

board_runner_args(pyocd "--target=cortex_m")
include(${ZEPHYR_BASE}/boards/common/pyocd.board.cmake)
