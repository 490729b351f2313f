// SPDX-License-Identifier: MIT
/*
 * --follow-fork: a forked child goes on tracing, with an agent, a channel and
 * files of its own. There is no pthread_atfork: a handler of ours could not be
 * taken back before the payload is unmapped. The child's hooks, which pass
 * everything through, notice where they are (payload/hooks.h) and start the agent.
 */
#pragma once

#include "payload/agent.h"

/* What a child of this process shall do from now on, by agent->options and agent->output. GIL: a
 * child that Python forks finds all of it. */
void tm_follow_plan(struct tm_agent *agent);
/* Children stay untraced. GIL. */
void tm_follow_forget(void);
