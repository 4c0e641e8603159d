// The checks and their outcomes.

/** Facts that hold and facts that do not; the latter are told at once. */
export class Report {
  passed = 0;
  failed = 0;

  /** A fact: it holds unless its check fails. */
  async fact(name, check) {
    try {
      await check();
      this.passed += 1;
    } catch (error) {
      this.failed += 1;
      const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
      console.log(`  FAILED ${name}\n    ${why.trim().replaceAll("\n", "\n    ")}`);
    }
  }

  /** Prints the summary; the exit code. A run that checked nothing has failed. */
  close() {
    console.log(`${this.passed} passed, ${this.failed} failed`);
    return this.passed > 0 && this.failed === 0 ? 0 : 1;
  }
}
