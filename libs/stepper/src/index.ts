export { createStepper, type Stepper, type StepperOptions } from "./stepper.ts";
