// SPDX-License-Identifier: MIT
/* tm-analyze block ADDRESS FILE...: where the block at an address came from. */
#include "analyzer/blocks.h"
#include "analyzer/command.h"

static TmExit run(const TmOptions *options, GError **error)
{
    g_autoptr(TmSession) session = NULL;
    TmOptions with_address = *options;

    if (options->files[0] == NULL || options->files[1] == NULL ||
        !tm_parse_address(options->files[0], &with_address.block_address) ||
        with_address.block_address == 0) {
        tm_error_usage(error, "block needs an address and snapshots");
        return TM_EXIT_USAGE;
    }
    session = tm_session_open(options->files + 1, TM_PROGRESS_LONG, error);
    if (session == NULL || !tm_session_require_addresses(session, error) ||
        !tm_blocks_show_one(session, "block", &with_address, error))
        return TM_EXIT_DATA;
    return TM_EXIT_OK;
}

const TmCommand tm_cmd_block = {
    .name = "block",
    .takes = TM_TAKES_DISPLAY | TM_TAKES_OUTPUT | TM_TAKES_SOURCE,
    .parameters = "ADDRESS FILE...",
    .summary = "Shows where the memory block at an address was allocated.",
    .run = run,
};
