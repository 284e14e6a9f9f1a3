#!/bin/sh
# Remove from an environment what no image needs, then compile the rest:   prune.sh PREFIX
#
# Images run on a read-only root filesystem, where Python cannot keep bytecode: without it every pod would compile
# torch and transformers again. Bytecode is marked as valid without a look at the source's time stamp, which image
# layers round.
set -eu
packages="$1/lib/python3.11/site-packages"

find "$packages" -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.a' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' \) -delete
if [ -d "$packages/torch" ]; then
    # Headers and CMake files are for C++ extensions; of the programs only the shared memory one is used.
    rm -rf "$packages/torch/include" "$packages/torch/share"
    find "$packages/torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
fi
if [ -d "$packages/pyarrow" ]; then
    # The RPC framework of Arrow; files are read without it.
    rm -rf "$packages/pyarrow/include" "$packages/pyarrow/src"
    rm -f "$packages"/pyarrow/libarrow_flight.so* "$packages"/pyarrow/libarrow_python_flight.so* \
        "$packages"/pyarrow/_flight*.so
fi
"$1/bin/python" -m compileall -q -j 2 --invalidation-mode unchecked-hash "$packages" || {
    echo "prune.sh: some files could not be compiled; they are compiled when they are imported" >&2
}
