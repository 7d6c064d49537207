// `npm run check`: the static checks alone.
import { runChecks, STATIC_CHECKS } from "./checks.ts";

const { failed } = await runChecks(STATIC_CHECKS);
process.exit(failed === 0 ? 0 : 1);
