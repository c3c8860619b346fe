# Makes a ggml-cpu library for each CPU tier, beside the one for every x86-64-v2: a wheel has them all, and tailrace loads
# one (native_libs/bundle.py). All have the same name, so libllama takes whichever is loaded before it.
#
# TAILRACE_CPU_TIERS lists the tiers' names with `|` between them; TAILRACE_FLAGS_<tier> has a tier's compiler flags.

function(tailrace_add_cpu_tiers)
    # ggml has found it, for its own folder alone.
    find_package(OpenMP REQUIRED)
    get_target_property(folder ggml-cpu SOURCE_DIR)
    foreach(property IN ITEMS SOURCES INCLUDE_DIRECTORIES COMPILE_DEFINITIONS COMPILE_OPTIONS LINK_LIBRARIES)
        get_target_property(${property} ggml-cpu ${property})
        if(NOT ${property})
            set(${property} "")
        endif()
    endforeach()
    get_directory_property(of_folder DIRECTORY "${folder}" COMPILE_DEFINITIONS)
    # Relative to the target's own folder, which isn't this one.
    list(TRANSFORM SOURCES PREPEND "${folder}/" REGEX "^[^/]")
    string(REPLACE "|" ";" tiers "${TAILRACE_CPU_TIERS}")
    foreach(tier IN LISTS tiers)
        separate_arguments(flags UNIX_COMMAND "${TAILRACE_FLAGS_${tier}}")
        set(target "ggml-cpu-${tier}")
        add_library(${target} SHARED ${SOURCES})
        target_include_directories(${target} PRIVATE ${INCLUDE_DIRECTORIES})
        target_compile_definitions(${target} PRIVATE ${COMPILE_DEFINITIONS} ${of_folder})
        target_compile_options(${target} PRIVATE ${COMPILE_OPTIONS} ${flags})
        target_compile_features(${target} PRIVATE c_std_11 cxx_std_17)
        target_link_libraries(${target} PRIVATE ${LINK_LIBRARIES})
        set_target_properties(${target} PROPERTIES
            OUTPUT_NAME ggml-cpu
            LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin/${tier}"
            BUILD_WITH_INSTALL_RPATH TRUE
            INSTALL_RPATH "$ORIGIN/.."
            POSITION_INDEPENDENT_CODE ON)
        install(TARGETS ${target} LIBRARY DESTINATION "${SKBUILD_PLATLIB_DIR}/llama_cpp/lib/${tier}")
    endforeach()
endfunction()
cmake_language(DEFER CALL tailrace_add_cpu_tiers)
