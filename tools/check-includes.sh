#!/bin/bash
# check-includes.sh - who may include whom. One line per folder: what its files may include besides their own
# folder and the C library; then one line per header of another library: the files that may include it.
cd "$(dirname "$0")/.." || exit 1
table='
base
config    base
data      base
graph     base ops.def
device    base graph/op.h cuda
cuda      base graph/op.h
ops       base graph cuda
model     base config graph
plan      base graph
sched     base graph plan
ckpt      base graph/param.h
run       base config data graph device ops model plan sched ckpt
cmd       base config data graph device model plan sched ckpt run version.h
'
libraries='
jansson.h   src/base/json.c
cblas.h     src/base/blas.c
zstd.h      src/base/file.c
zlib.h      src/base/file.c
xxhash.h    src/base/hash.c
pcre2.h     src/data/bpe_pcre.c
utf8proc.h  src/data/nfc.c
mpi.h       src/device/comm_mpi.c
sanitizer/asan_interface.h  src/base/arena.c
cublasLt.h  src/cuda/library.cuh
cudnn.h     src/cuda/library.cuh
cuda.h      src/cuda/hopper.cuh
cuda_bf16.h     src/cuda/cuda.cuh
cuda_runtime.h  src/cuda/cuda.cuh
'
problems=$(
    for file in src/*/*.[ch] src/*/*.cu src/*/*.cuh; do
        folder=$(basename "$(dirname "$file")")
        allowed=$(echo "$table" | awk -v f="$folder" '$1 == f { print " " $0 " " }')
        [ -n "$allowed" ] || echo "$file: folder $folder is not in the table of tools/check-includes.sh"
        sed -n 's/^ *# *include *"\(.*\)".*/\1/p' "$file" | while read -r header; do
            case $allowed in *" $header "* | *" ${header%%/*} "*) ;; *) echo "$file: may not include $header" ;; esac
        done
    done
    for file in tests/ref/*.[ch]; do
        sed -n 's/^ *# *include *"\(.*\)".*/\1/p' "$file" | grep -vE '^(graph/op.h|ops.def|tests/ref/.*)$' |
            sed "s|^|$file: a reference may not include |"
    done
    grep -HE '^ *# *include *<' src/*/*.[ch] src/*/*.cu src/*/*.cuh src/*/*.def tests/*.[ch] tests/*/*.[ch] 2>/dev/null |
        sed 's/^\([^:]*\):.*<\(.*\)>.*/\1 \2/' | while read -r file header; do
        # A header of the C library is one that the compiler finds without any -I and belongs to libc or gcc.
        only=$(echo "$libraries" | awk -v h="$header" '$1 == h { print $2 }')
        if [ -n "$only" ]; then
            [ "$file" = "$only" ] || echo "$file: <$header> belongs to $only alone"
        else
            case " assert complex ctype dirent dlfcn errno fcntl fenv float ftw glob immintrin inttypes limits link locale math poll pthread
                sched setjmp signal spawn stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings
                sys/ioctl sys/mman sys/prctl sys/random sys/resource sys/stat sys/statvfs sys/time sys/types sys/uio sys/utsname sys/wait time unistd " in
            *[[:space:]]"${header%.h}"[[:space:]]*) ;;
            *) echo "$file: <$header> is neither C library nor in the table of tools/check-includes.sh" ;;
            esac
        fi
    done
)
if [ -n "$problems" ]; then
    echo "$problems"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
