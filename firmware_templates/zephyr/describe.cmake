# What Zephyr knows of BOARD with the application's settings, without a build: .config and devicetree as its own configuration
# leaves them in -B, and the board's QEMU options in twin.txt. Run as `cmake ... -S app -B folder -P describe.cmake`.
set(MODULES kconfig)
include($ENV{ZEPHYR_BASE}/cmake/package_helper.cmake)
include(${BOARD_DIR}/board.cmake OPTIONAL)
file(WRITE ${CMAKE_BINARY_DIR}/twin.txt "${QEMU_FLAGS_${ARCH}}")
