# SPDX-License-Identifier: MIT
# cmake -DOUTPUT=FILE -DPARTS=A,B,C -DVERSION=V -P join.cmake: one Python source of several, in that
# order. The licence is said once, by the first; %VERSION% is replaced.

string(REPLACE "," ";" parts "${PARTS}")
set(joined "# SPDX-License-Identifier: MIT\n")
foreach(part IN LISTS parts)
    file(READ ${part} text)
    string(REGEX REPLACE "^# SPDX[^\n]*\n" "" text "${text}")
    if(NOT joined STREQUAL "# SPDX-License-Identifier: MIT\n")
        string(APPEND joined "\n\n")
    endif()
    string(APPEND joined "${text}")
endforeach()
string(REPLACE "%VERSION%" "${VERSION}" joined "${joined}")
file(WRITE ${OUTPUT} "${joined}")
