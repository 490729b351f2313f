// SPDX-License-Identifier: MIT
#include "payload/template.h"

#include <stdio.h>
#include <string.h>

#include "payload/clock.h"

#define DAY_S 86400

/* The civil date of a day counted from 1970-01-01 (proleptic Gregorian), by the usual count of
 * 400-year eras. Not gmtime_r: it takes a lock of the libc that a forked child would inherit. */
static void civil_from_days(int64_t days, int *ret_year, int *ret_month, int *ret_day)
{
    days += 719468; /* days from 0000-03-01 */
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t day_of_era = days - era * 146097;
    int64_t year =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * day_of_year + 2) / 153; /* from March */

    *ret_day = (int)(day_of_year - (153 * month + 2) / 5 + 1);
    *ret_month = (int)(month < 10 ? month + 3 : month - 9);
    *ret_year = (int)(year + era * 400 + (*ret_month <= 2));
}

static int format_timestamp(const struct tm_template_values *values, char *ret, size_t ret_bytes)
{
    int64_t seconds = (int64_t)(values->real_ns / TM_NS_PER_S) + values->utc_offset_s;
    int64_t days = (seconds >= 0 ? seconds : seconds - (DAY_S - 1)) / DAY_S;
    int second = (int)(seconds - days * DAY_S);
    int year, month, day;

    civil_from_days(days, &year, &month, &day);
    return snprintf(ret, ret_bytes, "%04d-%02d-%02d-%02d:%02d:%02d", year, month, day,
                    second / 3600, second / 60 % 60, second % 60);
}

static const char *const variables[] = {"$pid", "$timestamp", "$counter"};

/* The variable that text begins with, or -1. */
static int variable_at(const char *text)
{
    for (int i = 0; i < 3; i++) {
        if (!strncmp(text, variables[i], strlen(variables[i])))
            return i;
    }
    return -1;
}

bool tm_template_expand(const char *template, const struct tm_template_values *values, char *ret,
                        size_t ret_bytes)
{
    size_t used = 0;

    while (*template) {
        int which = variable_at(template), n = 1;
        size_t room = ret_bytes - used;
        if (which == 0)
            n = snprintf(ret + used, room, "%llu", (unsigned long long)values->pid);
        else if (which == 1)
            n = format_timestamp(values, ret + used, room);
        else if (which == 2)
            n = snprintf(ret + used, room, "%04llu", (unsigned long long)values->counter);
        else
            ret[used] = *template;
        if (n < 0 || (size_t)n >= room)
            return false;
        used += (size_t)n;
        template += which < 0 ? 1 : strlen(variables[which]);
    }
    ret[used] = '\0';
    return true;
}

bool tm_template_has(const char *template, const char *variable)
{
    return strstr(template, variable) != NULL;
}
