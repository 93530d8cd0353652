/** Which devices a command means: all, one PF, one VF of a PF, or one VUID. */
export interface DeviceSelector {
  readonly all: boolean;
  readonly pf: number | null;
  readonly vf: number | null;
  readonly vuid: string | null;
}
