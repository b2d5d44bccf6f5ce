# Installs links to the source folder in place of copies of its files; see RECONX_LIVE_SOURCE.
#
# The installed package then holds only the generated messages and a link to our __init__.py, which extends the
# package's search path to every folder of that name on sys.path. A .pth file puts a folder there whose only content
# is a link to the Python sources; naming the source folder itself would make its test/ and launch/ importable too.

set(live_folder "share/${PROJECT_NAME}/live_source")
file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/${PROJECT_NAME}_live_source.pth" "${CMAKE_INSTALL_PREFIX}/${live_folder}\n")
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${PROJECT_NAME}_live_source.pth" DESTINATION "${python_folder}")

function(install_link target link)
  get_filename_component(folder "${link}" DIRECTORY)
  install(CODE "
    set(prefix \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\")
    file(MAKE_DIRECTORY \"\${prefix}/${folder}\")
    if(IS_DIRECTORY \"\${prefix}/${link}\" AND NOT IS_SYMLINK \"\${prefix}/${link}\")
      message(FATAL_ERROR \"\${prefix}/${link} is a folder: remove it and install again\")
    endif()
    file(CREATE_LINK \"${CMAKE_CURRENT_SOURCE_DIR}/${target}\" \"\${prefix}/${link}\" SYMBOLIC)
    message(STATUS \"Linking: \${prefix}/${link}\")
  ")
endfunction()

install_link("${PROJECT_NAME}/__init__.py" "${package_folder}/__init__.py")
install_link("${PROJECT_NAME}" "${live_folder}/${PROJECT_NAME}")
install_link(launch "share/${PROJECT_NAME}/launch")
install_link(config "share/${PROJECT_NAME}/config")
