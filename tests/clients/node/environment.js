// The client's environment: pinned packages, kept outside of the tree, and the contracts.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, "../../..");
const PROTO = join(ROOT, "proto");
const BUILD = join(resolve(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target")), "clients-node");

/** npm's files; the lockfile holds each package to its hash. */
const MANIFEST = ["package.json", "package-lock.json", ".npmrc"];

/**
 * Where the packages are, which are installed first if they are not there.
 *
* The folder is named after its contents and its user, grows under another name and is renamed when it is complete:
 * one that exists is whole.
 */
function installed() {
  const print = createHash("sha256").update(process.version);
  for (const file of MANIFEST) {
    print.update(readFileSync(join(HERE, file)));
  }
  const home = join(BUILD, `packages-${print.digest("hex").slice(0, 16)}`);
  if (existsSync(home)) {
    return home;
  }
  console.error("installing the Node client's packages (first time only) …");
  mkdirSync(BUILD, { recursive: true });
  const unfinished = mkdtempSync(join(BUILD, "unfinished-"));
  try {
    for (const file of MANIFEST) {
      cpSync(join(HERE, file), join(unfinished, file));
    }
    execFileSync("npm", ["ci", "--loglevel=error"], { cwd: unfinished, stdio: ["ignore", 2, 2] });
    renameSync(unfinished, home);
  } catch (error) {
    // Somebody else may have been faster.
    if (!existsSync(home)) {
      throw new Error(`npm ci failed in ${unfinished}: is npm on the PATH, and its registry within reach?`, { cause: error });
    }
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return home;
}

const require = createRequire(join(installed(), "package.json"));
export const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const contracts = ["millrace", "shop"].flatMap((folder) =>
  readdirSync(join(PROTO, folder), { recursive: true })
    .filter((name) => name.endsWith(".proto"))
    .map((name) => join(folder, name)),
);

/** The packages of the contracts, such as `shop.query.v1`: their clients are made from the files as they are now. */
export const { millrace, shop, google } = grpc.loadPackageDefinition(
  loadSync([...contracts, "google/rpc/status.proto", "google/rpc/error_details.proto"], {
    includeDirs: [PROTO, join(PROTO, "third_party")],
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
);
