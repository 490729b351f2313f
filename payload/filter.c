// SPDX-License-Identifier: MIT
#include "payload/filter.h"

uint32_t tm_filter_site_flags(const struct tm_site *site)
{
    (void)site;
    return 0;
}

uint16_t tm_filter_node_flags(const struct tm_node *node)
{
    (void)node;
    return 0;
}

bool tm_filter_any(void)
{
    return false;
}
