# Makes message packages that came as pip wheels usable as CMake dependencies. The Makefile passes it as
# CMAKE_PROJECT_INCLUDE, so neither the wheels nor a real ROS installation are touched.
#
# - Exported targets of the wheels name include folders of the machine that built them, and CMake refuses to generate
#   when an imported target names a folder that does not exist: those folders are dropped.
# - Our own target would export numpy's headers, which here lie in an environment inside the source folder, and CMake
#   refuses to export paths of the source folder: they are kept for building only.

function(reconx_drop_missing_includes)
  get_property(imported DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  list(FILTER imported INCLUDE REGEX "__rosidl_generator_py$")
  foreach(name IN LISTS imported)
    get_target_property(folders "${name}" INTERFACE_INCLUDE_DIRECTORIES)
    set(existing "")
    foreach(folder IN LISTS folders)
      if(EXISTS "${folder}")
        list(APPEND existing "${folder}")
      endif()
    endforeach()
    set_property(TARGET "${name}" PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()

function(reconx_keep_includes_for_building)
  get_property(own DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY BUILDSYSTEM_TARGETS)
  list(FILTER own INCLUDE REGEX "__rosidl_generator_py$")
  foreach(name IN LISTS own)
    get_target_property(folders "${name}" INTERFACE_INCLUDE_DIRECTORIES)
    set(kept "")
    foreach(folder IN LISTS folders)
      if(IS_ABSOLUTE "${folder}")
        set(folder "$<BUILD_INTERFACE:${folder}>")
      endif()
      list(APPEND kept "${folder}")
    endforeach()
    set_property(TARGET "${name}" PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

# The targets appear while the project's CMakeLists.txt runs, so both wait for its end.
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL reconx_drop_missing_includes)
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL reconx_keep_includes_for_building)
