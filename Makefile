# `make` leaves the program at ./moec. One output folder per flavour: `make`, `make SAN=address,undefined check`
# never need a clean. The Makefile names no source file: it lists folders.
CC     ?= gcc
WERROR ?= -Werror
MPICC  ?= mpicc
comma  := ,
OUT    := build/cpu$(if $(SAN),-$(subst $(comma),-,$(SAN)))
MPIINC := $(shell $(MPICC) --showme:compile 2>/dev/null || $(MPICC) -compile_info 2>/dev/null | tr ' ' '\n' | grep '^-I')
MPILIB := $(shell $(MPICC) --showme:link 2>/dev/null || $(MPICC) -link_info 2>/dev/null | tr ' ' '\n' | grep '^-[LlW]')
# Built for the machine it is built on; MARCH= gives a binary for any x86-64 (slower).
MARCH  ?= -march=native
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# Without trapping conditions become selections, so that loops of exp() are vectorized for AVX2 too.
CFLAGS := -std=c17 -D_GNU_SOURCE -O3 -g -MMD -MP -I. -Isrc -I$(OUT) -fvisibility=hidden -fno-math-errno -pthread \
          -fno-trapping-math -ffp-contract=off $(MARCH) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all) \
          -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla $(WERROR)
LDLIBS := -lopenblas -ljansson -lpcre2-8 -lutf8proc -lzstd -lz -lm -lpthread $(MPILIB)
# With nvcc and the headers of cuBLAS and cuDNN, one program holds both devices; otherwise it is the CPU program.
# CUDA= builds without.
NVCC   := $(shell command -v nvcc 2>/dev/null || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
CUDA   ?= $(if $(NVCC),$(patsubst %/bin/nvcc,%,$(realpath $(NVCC))))
CUDAINC := $(firstword $(dir $(wildcard $(addsuffix /cudnn.h,$(CUDA)/include /usr/include))))
CU     := $(if $(SAN),,$(if $(and $(CUDA),$(CUDAINC)),$(sort $(wildcard src/*/*.cu))))
NVFLAGS := -std=c++17 -O3 -I. -Isrc -I$(OUT) -I$(CUDAINC) -MD -MP \
           -Xcompiler -Wall,-Wextra,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-Wno-pedantic -Werror all-warnings
# Compute capability 9.0, and code of 8.0 that every later device takes; NAME_hopper.cu has nothing for others than 9.0.
HOPPER := -gencode arch=compute_90a,code=sm_90a
GPUS    = $(HOPPER) $(if $(findstring hopper,$<),,-gencode arch=compute_80$(comma)code=[sm_80$(comma)compute_80])
LDLIBS += $(if $(CU),-L$(CUDA)/lib64 -lcudart_static -ldl -lrt)
SRC    := $(sort $(wildcard src/*/*.c))
OBJ    := $(SRC:%=$(OUT)/%.o) $(CU:%=$(OUT)/%.o)
LIBOBJ := $(filter-out $(OUT)/src/cmd/main.c.o,$(OBJ))
REFOBJ := $(patsubst %,$(OUT)/%.o,$(sort $(wildcard tests/ref/*.c)))
TESTS  := $(patsubst tests/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/*_test.c)))

moec: $(OUT)/moec
	@cp $< $@.new && mv $@.new $@
$(OUT)/moec: $(OBJ)
	$(CC) $(CFLAGS) $^ $(LDLIBS) -o $@
# The registry is the listing of src/ops.
$(OUT)/ops.def: FORCE
	@mkdir -p $(@D); printf 'OP(%s)\n' $(basename $(notdir $(sort $(wildcard src/ops/*.c)))) >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(OUT)/version.h: FORCE
	@mkdir -p $(@D); echo '#define MOEC_COMMIT "$(VERSION)"' >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(OUT)/src/device/comm_mpi.c.o: CFLAGS += $(MPIINC) -Wno-conversion
$(OUT)/%.c.o: %.c | $(OUT)/ops.def $(OUT)/version.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c $< -o $@
$(OUT)/%.cu.o: %.cu | $(OUT)/ops.def $(OUT)/version.h
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) $(GPUS) -c $< -o $@
$(OUT)/tests/%_test: $(OUT)/tests/%_test.c.o $(OUT)/tests/test_main.c.o $(REFOBJ) $(LIBOBJ)
	$(CC) $(CFLAGS) $^ $(LDLIBS) -o $@
tests: $(TESTS)
check: $(OUT)/moec tests
	@OUT=$(OUT) tools/run-tests.sh
# libFuzzer targets: build/fuzz/NAME_fuzz; tools/fuzz.sh runs them.
FUZZ := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(sort $(wildcard tests/fuzz/*_fuzz.c)))
fuzz:
	+$(MAKE) CC=clang SAN=fuzzer-no-link,address,undefined $(FUZZ)
$(OUT)/libmoec.a: $(LIBOBJ)
	@rm -f $@
	ar rcs $@ $^
# Tables of Unicode, walked for every pattern: fuzzing spends its time elsewhere when their branches are not traced.
$(OUT)/src/data/alphabet.c.o $(OUT)/src/data/charset.c.o: CFLAGS := $(subst fuzzer-no-link$(comma),,$(CFLAGS))
build/fuzz/%_fuzz: $(OUT)/tests/fuzz/%_fuzz.c.o $(OUT)/libmoec.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $@
# Programs that measure single kernels on a device; not part of the tests.
PROBES := $(if $(CU),$(patsubst %.cu,$(OUT)/%,$(wildcard tests/probe/*_probe.cu)))
# PROBE=-DGROUPED_CLUSTER=1: constants of a kernel to try.
probe: $(PROBES)
$(OUT)/tests/probe/%.cu.o: NVFLAGS += $(PROBE)
$(OUT)/tests/probe/%.cu.o: GPUS = $(HOPPER)
# A probe includes the sources of the kernels that it measures; they are not linked again.
$(OUT)/tests/probe/grouped_probe $(OUT)/tests/probe/grouped_at_once_probe $(OUT)/tests/probe/chain_probe: PROBED := grouped_hopper
$(OUT)/tests/probe/dense_probe: PROBED := gemm gemm_tune
$(OUT)/tests/probe/attention_probe: PROBED := dnn attention_dnn
$(OUT)/tests/probe/%: $(OUT)/tests/probe/%.cu.o $(LIBOBJ)
	$(CC) $(CFLAGS) $(filter-out $(PROBED:%=\%/%.cu.o),$^) $(LDLIBS) -o $@
# ops_cuda_test with a plain matrix product instead of cuBLASLt, for tools/sanitize-cuda.sh.
plain: $(OUT)/tests/plain/ops_cuda_test
$(OUT)/tests/plain/ops_cuda_test: $(addprefix $(OUT)/tests/,ops_cuda_test.c.o test_main.c.o plain/gemm.cu.o) $(REFOBJ) $(LIBOBJ)
	$(CC) $(CFLAGS) $(filter-out %/src/cuda/gemm.cu.o %/src/cuda/gemm_tune.cu.o,$^) $(LDLIBS) -o $@
clean:
	rm -rf build moec
FORCE:
.PHONY: tests check fuzz probe plain clean FORCE
# Objects stay. (.SECONDARY would also leave build/ empty while an old ./moec is there.)
.PRECIOUS: $(OUT)/%.c.o $(OUT)/%.cu.o
-include $(shell test -d $(OUT) && find $(OUT) -name '*.d')
