// How many inputs a property is tried with: few in every test run, as many as there is time for by `npm run fuzz`.

/** `brief`: what a test run can afford. */
export const fuzzRuns = (brief: number): number => brief * Number(process.env.PILOTLIGHT_FUZZ_FACTOR ?? 1);
