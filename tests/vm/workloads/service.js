// Counts requests, and writes and reads a file for each: what libuv would use io_uring for.
"use strict";
const fs = require("node:fs/promises");
const http = require("node:http");

let count = 0;

http.createServer(async (request, response) => {
  const mine = ++count;
  const path = `/var/lib/workload/count-${mine % 16}`;
  await fs.writeFile(path, String(mine));
  const stored = (await fs.stat(path)).size;
  response.end(JSON.stringify({ count: mine, stored, node: process.version, pid: process.pid }));
}).listen(Number(process.argv[2]), "::");
