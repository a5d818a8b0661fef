/* SPDX-License-Identifier: MIT */
/*
 * CMD PCI-0680 / SiI0680A registers, for the driver and the device model.
 * Source: docs/hardware/cmd680.md (section numbers in comments).
 *
 * The chip has one register file; BAR5 shows all of it (section 3). Offsets
 * here are BAR5 offsets; the channel 1 copy of a per-channel register is at
 * + CMD680_CH_STRIDE (task file, timing) or + CMD680_BM_STRIDE (bus master).
 */
#ifndef USRDRV_CMD680_REGS_H
#define USRDRV_CMD680_REGS_H

/* cffi: begin */
#define CMD680_VENDOR		0x1095
#define CMD680_DEVICE		0x0680
#define CMD680_BAR5_SIZE	256

#define CMD680_CH_STRIDE	0x40
#define CMD680_BM_STRIDE	0x08

/* Bus master, section 4.2 */
#define CMD680_BM_CMD		0x00
#define CMD680_BM_SW		0x01
#define CMD680_BM_STATUS	0x02
#define CMD680_BM_PRD		0x04
#define CMD680_BM2		0x10	/* section 4.3 */

#define CMD680_BM_START		0x01
#define CMD680_BM_TO_MEMORY	0x08	/* command: direction, device to memory */
#define CMD680_BM_ACTIVE	0x01
#define CMD680_BM_ERROR		0x02
#define CMD680_BM_INT		0x04
#define CMD680_BM_DEV0_DMA	0x20
#define CMD680_BM_DEV1_DMA	0x40
#define CMD680_BM_SIMPLEX	0x80

/* Diagnostics, section 4.4 */
#define CMD680_CUR_PRD		0x20
#define CMD680_CUR_COUNT	0x24
#define CMD680_FIFO_CTL		0x40	/* channel 1: 0x44 */

/* System configuration, section 4.1.2 */
#define CMD680_SYSCFG		0x48
#define CMD680_SYSCFG_BYTE2	0x4a	/* BA5_EN, clock, interrupt block */
#define CMD680_SW_DATA		0x4c
#define CMD680_SYSCFG_BA5_EN	0x00010000
#define CMD680_SYSCFG_CLK_MASK	0x00300000
#define CMD680_SYSCFG_CLK_100	0x00000000
#define CMD680_SYSCFG_CLK_133	0x00100000
#define CMD680_SYSCFG_CLK_2XPCI	0x00200000
#define CMD680_SYSCFG_CLK_OFF	0x00300000
#define CMD680_SYSCFG_INT0_BLOCK 0x00400000
#define CMD680_SYSCFG_INT1_BLOCK 0x00800000
#define CMD680_SYSCFG_PBM_RESET	0x00000001
#define CMD680_SYSCFG_ARB_RESET	0x00000002
#define CMD680_SYSCFG_FF1_RESET	0x00000010
#define CMD680_SYSCFG_FF0_RESET	0x00000020
#define CMD680_SYSCFG_IDE1_RESET 0x00000040
#define CMD680_SYSCFG_IDE0_RESET 0x00000080

/* Flash and EEPROM, sections 4.6, 4.7 */
#define CMD680_FLASH_CMD	0x50
#define CMD680_FLASH_DATA	0x54
#define CMD680_EEPROM_CMD	0x58
#define CMD680_EEPROM_DATA	0x5c
#define CMD680_MEM_START	0x02000000
#define CMD680_MEM_READ		0x01000000
#define CMD680_EEPROM_ERROR	0x10000000

/* Task file, section 4.8 */
#define CMD680_TF_DATA		0x80
#define CMD680_TF_ERROR		0x81	/* read */
#define CMD680_TF_FEATURES	0x81	/* write */
#define CMD680_TF_NSECT		0x82
#define CMD680_TF_LBAL		0x83
#define CMD680_TF_LBAM		0x84
#define CMD680_TF_LBAH		0x85
#define CMD680_TF_DEVICE	0x86
#define CMD680_TF_STATUS	0x87	/* read */
#define CMD680_TF_COMMAND	0x87	/* write */
#define CMD680_TF_ALTSTATUS	0x8a	/* read */
#define CMD680_TF_CONTROL	0x8a	/* write */
#define CMD680_TF_BUFFERED	0x90
#define CMD680_VDMA_COUNT	0x9c

/* Channel configuration and status, section 4.1.3 */
#define CMD680_CHCFG		0xa0
#define CMD680_CHCFG_CABLE80	0x00000001
#define CMD680_CHCFG_BUFFERED	0x00000002
#define CMD680_CHCFG_RESET	0x00000004
#define CMD680_CHCFG_TRISTATE	0x00000008
#define CMD680_CHCFG_IORDY	0x00000200
#define CMD680_CHCFG_VDMA_INT	0x00000400
#define CMD680_CHCFG_INTRQ	0x00000800
#define CMD680_CHCFG_WD_TIMEOUT	0x00001000
#define CMD680_CHCFG_WD_ENABLE	0x00002000
#define CMD680_CHCFG_WD_INT	0x00004000
#define CMD680_TF_TIMING	0xa2	/* 16 bits */
#define CMD680_PIO_TIMING	0xa4	/* 16 bits per device */
#define CMD680_MWDMA_TIMING	0xa8
#define CMD680_UDMA_TIMING	0xac
#define CMD680_UDMA_CYCLE_MASK	0x3f
#define CMD680_MODE		0xb4	/* data transfer mode, section 4.1.1 */
#define CMD680_MODE_PIO		0
#define CMD680_MODE_PIO_IORDY	1
#define CMD680_MODE_MWDMA	2
#define CMD680_MODE_UDMA	3

/* Configuration space, sections 2 and 3 */
#define CMD680_CFG_CONFIG	0x40
#define CMD680_CFG_SW_DATA	0x44
#define CMD680_CFG_PMCAP	0x60
#define CMD680_CFG_PMCSR	0x64
#define CMD680_CFG_BM		0x70	/* aliases BAR5 0x00-0x0f */
#define CMD680_CFG_MODE0	0x80	/* BAR5 0xb4 */
#define CMD680_CFG_MODE1	0x84	/* BAR5 0xf4 */
#define CMD680_CFG_SYSCFG	0x88	/* BAR5 0x48-0x5f at 0x88-0x9f */
#define CMD680_CFG_CH0		0xa0	/* BAR5 0xa0-0xaf */
#define CMD680_CFG_CH1		0xb0	/* BAR5 0xe0-0xef */

/* PRD entry, section 6.1 */
#define CMD680_PRD_EOT		0x80000000
#define CMD680_PRD_MAX		65536	/* bytes an entry moves; must not cross this boundary */
/* cffi: end */

#endif
