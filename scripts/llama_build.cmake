# How tailrace compiles llama.cpp: CMake reads this after the `project` command of llama-cpp-python (see setup_engine.py).
#
# It leaves out what tailrace doesn't use and has the rest compiled with less work. It changes no source file. What the
# user has set in CMAKE_ARGS stays.

# Images and sound (mtmd), and the library of llama.cpp's own programs (common): tailrace loads neither. Half of the
# compile was theirs. A plain variable hides the cache's entry, which the binding sets by force.
if(NOT DEFINED LLAVA_BUILD)
    set(LLAVA_BUILD OFF)
endif()
if(NOT LLAVA_BUILD)
    set(LLAMA_BUILD_COMMON OFF)
endif()

# A worker's devices, over the network (docs/devices.md). Without RDMA: it would link a library that this machine happens
# to have, and choose another transport by itself.
if(NOT DEFINED GGML_RPC)
    set(GGML_RPC ON)
endif()
if(NOT DEFINED GGML_RPC_RDMA)
    set(GGML_RPC_RDMA OFF)
endif()

# One file for each library. A wheel has no links, so each versioned name would be another copy.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

# Warnings of others' code are of no use here, and the compiler has to look for them.
set(LLAMA_ALL_WARNINGS OFF)

# Sources of libllama that are small, and read the same headers as its large ones: parsing these is most of their time.
# llama.cpp joins its graphs' sources into larger files (a unity build); these are joined, too.
set(tailrace_joined_sources
    llama.cpp llama-adapter.cpp llama-arch.cpp llama-batch.cpp llama-chat.cpp llama-cparams.cpp llama-hparams.cpp
    llama-impl.cpp llama-io.cpp llama-kv-cache-iswa.cpp llama-kv-cache-dsa.cpp llama-kv-cache-dsa-iswa.cpp
    llama-kv-cache-msa.cpp llama-memory.cpp llama-memory-hybrid.cpp llama-memory-hybrid-iswa.cpp
    llama-memory-hybrid-idx.cpp llama-memory-recurrent.cpp llama-model-saver.cpp)

function(tailrace_tune_llama)
    if(NOT TARGET llama OR NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        return()
    endif()
    get_target_property(folder llama SOURCE_DIR)
    list(TRANSFORM tailrace_joined_sources PREPEND "${folder}/")
    set_source_files_properties(${tailrace_joined_sources} TARGET_DIRECTORY llama
        PROPERTIES SKIP_UNITY_BUILD_INCLUSION OFF)
    set_target_properties(llama PROPERTIES UNITY_BUILD_BATCH_SIZE 28)
endfunction()
# At the end of the configuration, when the target is there.
cmake_language(DEFER CALL tailrace_tune_llama)

if(DEFINED TAILRACE_CPU_TIERS)
    include("${CMAKE_CURRENT_LIST_DIR}/llama_cpu_tiers.cmake")
endif()
