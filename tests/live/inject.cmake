# The way in, tested with a payload that does nothing.
add_library(tm-toy-payload MODULE toy_payload.c)
add_executable(tm-inject-test tm_inject_test.c)
target_link_libraries(tm-inject-test PRIVATE tm-inject)
target_compile_definitions(tm-inject-test PRIVATE TM_TOY_PAYLOAD="$<TARGET_FILE:tm-toy-payload>")
add_dependencies(tm-inject-test tm-toy-payload)
