# tm-attach's command line and its side of the control channel. The way in is the library
# tm-inject.
add_library(tm-attach-cli STATIC
    client.c
    directory.c
    family.c
    hold.c
    leaving.c
    options.c
    payload_file.c
    verb_attach.c
    verb_check.c
    verb_detach.c
    verb_launch.c
    verb_snapshot.c
    verb_status.c)
file(RELATIVE_PATH TM_PAYLOAD_INSTALL_DIR
    ${CMAKE_INSTALL_FULL_BINDIR}/.. ${CMAKE_INSTALL_FULL_LIBDIR}/tm)
target_compile_definitions(tm-attach-cli PRIVATE
    TM_PAYLOAD_INSTALL_DIR="${TM_PAYLOAD_INSTALL_DIR}")
target_link_libraries(tm-attach-cli PUBLIC tm-inspect tm-format PkgConfig::GLIB m)

if(TARGET tm-inject)
    add_executable(tm-attach main.c)
    target_link_libraries(tm-attach PRIVATE tm-attach-cli tm-inject)
    add_dependencies(tm-attach tm-payload)
    install(TARGETS tm-attach RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    install(FILES ${PROJECT_SOURCE_DIR}/man/tm-attach.1
        DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
