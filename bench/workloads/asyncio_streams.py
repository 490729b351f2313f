# SPDX-License-Identifier: MIT
"""A server and eight clients that exchange lines over asyncio streams, in one process."""
import asyncio


async def _serve(reader, writer):
    while True:
        line = await reader.readline()
        if not line:
            break
        writer.write(b"echo " + line)
        await writer.drain()
    writer.close()


async def _talk(port, lines):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for i in range(lines):
        writer.write(b"line %d of a client\n" % i)
        await writer.drain()
        await reader.readline()
    writer.close()


async def _main(lines):
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*[_talk(port, lines) for _ in range(8)])
    server.close()
    await server.wait_closed()


def run(scale):
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(_main(int(160 * scale) + 1))
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
