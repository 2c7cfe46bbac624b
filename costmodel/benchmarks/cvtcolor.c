/* Grey from red, green and blue, in 14 bits of fixed point. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define H 12
#define W 14

void cvtcolor(const DATA_TYPE image[3][H][W], DATA_TYPE out[H][W]) {
  for (int y = 0; y < H; y++)
    for (int x = 0; x < W; x++)
      out[y][x] =
          (1868 * image[2][y][x] + 9617 * image[1][y][x] + 4899 * image[0][y][x] + 8192) / 16384;
}
