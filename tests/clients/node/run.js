#!/usr/bin/env node
// Millrace as a client in Node.js meets it: its own packages, the contracts, running servers.
//
//     python3 tests/clients/python/stack.py node tests/clients/node/run.js
//                                                    against a local stack that lives as long as this
//     COMMAND_ADDR=… QUERY_ADDR=… node tests/clients/node/run.js
//                                                    against servers that run already
//
// Needs Node 20 or newer, and npm. Its packages stay under `target/` (or `$CARGO_TARGET_DIR`).

const ADDRESSES = ["COMMAND_ADDR", "QUERY_ADDR"];
const missing = ADDRESSES.filter((name) => !process.env[name]);
if (missing.length > 0) {
  console.error(`set ${missing.join(" and ")} to host:port, or run under tests/clients/python/stack.py, which does`);
  process.exit(2);
}
if (Number(process.versions.node.split(".")[0]) < 20) {
  console.error("the Node client needs Node 20 or newer");
  process.exit(2);
}

const { Report } = await import("./report.js");
const { facts } = await import("./walk.js");
const report = new Report();
const began = Date.now();
console.log("the walk in Node …");
for (const [name, check] of facts) {
  await report.fact(name, () => check({ command: process.env.COMMAND_ADDR, query: process.env.QUERY_ADDR }));
}
console.log(`the walk in Node: ${((Date.now() - began) / 1000).toFixed(1)} s`);
process.exit(report.close());
