set(QEMU_FLAGS_${ARCH} -machine mps2-an386 -nographic)
