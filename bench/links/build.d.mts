export function buildTool(artifact: string): Promise<string>;
