/** Firmware of one static PF with a few VFs, and ports for hotplug PFs beside it. */
export const ONE_STATIC_PF = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'VIRTIO_NET_EMULATION_NUM_PF=1', 'VIRTIO_NET_EMULATION_NUM_VF=4'],
  ...['SRIOV_EN=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_NUM_PORT=6'],
  ...['PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64', 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8'],
];
/** Where it is. */
export const STATIC_PF = '14:00.2';
