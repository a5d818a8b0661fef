/* SPDX-License-Identifier: MIT */
/*
 * ATA task-file bits and command codes, for the driver and the disk model.
 * Source: docs/hardware/cmd680.md section 7.
 */
#ifndef USRDRV_ATA_H
#define USRDRV_ATA_H

/* cffi: begin */
/* Status, section 7.1 */
#define ATA_BSY		0x80
#define ATA_DRDY	0x40
#define ATA_DF		0x20
#define ATA_DSC		0x10
#define ATA_DRQ		0x08
#define ATA_ERR		0x01
/* Error */
#define ATA_ICRC	0x80
#define ATA_UNC		0x40
#define ATA_IDNF	0x10
#define ATA_ABRT	0x04
/* Device */
#define ATA_DEV_OBS	0xa0
#define ATA_DEV_LBA	0x40
#define ATA_DEV_DEV1	0x10
/* Device control */
#define ATA_CTL_HOB	0x80
#define ATA_CTL_OBS	0x08
#define ATA_CTL_SRST	0x04
#define ATA_CTL_NIEN	0x02

/* Commands, section 7.4 */
#define ATA_NOP				0x00
#define ATA_DATA_SET_MANAGEMENT		0x06
#define ATA_DEVICE_RESET		0x08
#define ATA_RECALIBRATE			0x10
#define ATA_READ_SECTORS		0x20
#define ATA_READ_SECTORS_EXT		0x24
#define ATA_READ_DMA_EXT		0x25
#define ATA_READ_NATIVE_MAX_EXT		0x27
#define ATA_READ_MULTIPLE_EXT		0x29
#define ATA_READ_LOG_EXT		0x2f
#define ATA_WRITE_SECTORS		0x30
#define ATA_WRITE_SECTORS_EXT		0x34
#define ATA_WRITE_DMA_EXT		0x35
#define ATA_SET_MAX_EXT			0x37
#define ATA_WRITE_MULTIPLE_EXT		0x39
#define ATA_WRITE_DMA_FUA_EXT		0x3d
#define ATA_WRITE_LOG_EXT		0x3f
#define ATA_READ_VERIFY			0x40
#define ATA_READ_VERIFY_EXT		0x42
#define ATA_WRITE_UNCORRECTABLE_EXT	0x45
#define ATA_SEEK			0x70
#define ATA_EXECUTE_DIAGNOSTIC		0x90
#define ATA_INIT_DEV_PARAMS		0x91
#define ATA_IDENTIFY_PACKET		0xa1
#define ATA_SMART			0xb0
#define ATA_READ_MULTIPLE		0xc4
#define ATA_WRITE_MULTIPLE		0xc5
#define ATA_SET_MULTIPLE		0xc6
#define ATA_READ_DMA			0xc8
#define ATA_WRITE_DMA			0xca
#define ATA_WRITE_MULTIPLE_FUA_EXT	0xce
#define ATA_STANDBY_IMMEDIATE		0xe0
#define ATA_IDLE_IMMEDIATE		0xe1
#define ATA_STANDBY			0xe2
#define ATA_IDLE			0xe3
#define ATA_READ_BUFFER			0xe4
#define ATA_CHECK_POWER			0xe5
#define ATA_SLEEP			0xe6
#define ATA_FLUSH_CACHE			0xe7
#define ATA_WRITE_BUFFER		0xe8
#define ATA_FLUSH_CACHE_EXT		0xea
#define ATA_IDENTIFY			0xec
#define ATA_SET_FEATURES		0xef
#define ATA_READ_NATIVE_MAX		0xf8
#define ATA_SET_MAX			0xf9

/* SET FEATURES subcommands */
#define ATA_SF_WCACHE_ON	0x02
#define ATA_SF_XFER_MODE	0x03
#define ATA_SF_APM_ON		0x05
#define ATA_SF_PUIS_ON		0x06		/* power-up in standby */
#define ATA_SF_SPIN_UP		0x07
#define ATA_SF_LOOKAHEAD_OFF	0x55
#define ATA_SF_KEEP_DEFAULTS	0x66
#define ATA_SF_WCACHE_OFF	0x82
#define ATA_SF_APM_OFF		0x85
#define ATA_SF_PUIS_OFF		0x86
#define ATA_SF_LOOKAHEAD_ON	0xaa
/* Word 2 of IDENTIFY: what a drive that powers up in standby wants before it spins up, and whether it has said all */
#define ATA_PUIS_SET_FEATURES_SHORT	0x37c8
#define ATA_PUIS_SET_FEATURES		0x738c
#define ATA_PUIS_ACCESS_SHORT		0x8c73
#define ATA_PUIS_ACCESS			0xc837
#define ATA_SF_REVERT_DEFAULTS	0xcc
/* Transfer mode codes for ATA_SF_XFER_MODE */
#define ATA_XFER_PIO		0x08
#define ATA_XFER_MWDMA		0x20
#define ATA_XFER_UDMA		0x40

/* SMART: key in LBA mid/high and subcommands in Features */
#define ATA_SMART_LBAM		0x4f
#define ATA_SMART_LBAH		0xc2
#define ATA_SMART_READ_DATA	0xd0
#define ATA_SMART_READ_THRESHOLDS 0xd1
#define ATA_SMART_AUTOSAVE	0xd2
#define ATA_SMART_SAVE		0xd3
#define ATA_SMART_OFFLINE	0xd4
#define ATA_SMART_READ_LOG	0xd5
#define ATA_SMART_WRITE_LOG	0xd6
#define ATA_SMART_ENABLE	0xd8
#define ATA_SMART_DISABLE	0xd9
#define ATA_SMART_STATUS	0xda

#define ATA_LBA28_MAX		0x10000000	/* sectors addressable with 28 bits */
#define ATA_DSM_TRIM		0x01
/* cffi: end */

#endif
