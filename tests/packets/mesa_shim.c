/* Feeds packets to Mesa's parser one by one: the few symbols that ac_parse_ib.c and ac_debug.c want from the rest of
 * Mesa, and a main(). Input on stdin, in 32-bit words: 0 (graphics and compute) or 1 (SDMA), count, words; repeated.
 * Each packet's text is followed by a line "=== end".
 */
#include "ac_debug.h"
#include "ac_vcn_enc.h"
#include "util/hash_table.h"
#include "util/memstream.h"

#include <stdio.h>
#include <stdlib.h>

bool u_memstream_open(struct u_memstream *mem, char **buffer, size_t *size)
{
   mem->f = open_memstream(buffer, size);
   return mem->f != NULL;
}

void u_memstream_close(struct u_memstream *mem)
{
   fclose(mem->f);
}

const char *debug_get_option_cached(const char *name, const char *fallback)
{
   return fallback;
}

bool debug_parse_bool_option(const char *text, bool fallback)
{
   return false; /* the only option asked for is colour */
}

struct hash_entry *_mesa_hash_table_search(const struct hash_table *table, const void *key)
{
   return NULL;
}

const char *ac_get_ip_type_string(const struct radeon_info *info, enum amd_ip_type type)
{
   return type == AMD_IP_SDMA ? "SDMA" : "GFX";
}

void ac_vcn_enc_init_cmds(rvcn_enc_cmd_t *commands, enum vcn_version version)
{
   abort(); /* no video here */
}

int main(void)
{
   uint32_t head[2];

   while (fread(head, 4, 2, stdin) == 2) {
      uint32_t *words = calloc(head[1] + 16, 4);
      if (fread(words, 4, head[1], stdin) != head[1])
         return 2;
      struct ac_ib_parser parser = {
         .f = stdout,
         .ib = words,
         .num_dw = head[1],
         .gfx_level = GFX11,
         .family = CHIP_NAVI31,
         .ip_type = head[0] ? AMD_IP_SDMA : AMD_IP_GFX,
      };
      ac_parse_ib_chunk(&parser);
      printf("=== end\n");
      free(words);
   }
   return 0;
}
